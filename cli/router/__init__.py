"""`headrace router`: what mirrored calls say of two models (`report`), and a score made of labelled prompts
(`calibrate`, whose arithmetic is `fitting`)."""
