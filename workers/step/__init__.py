"""One step, from the plan to what its result says: slots, rows, forward pass, drawing, reading back."""
