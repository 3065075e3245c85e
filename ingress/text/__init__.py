"""Text to token ids and back: tokenisers, chat templates, incremental detokenisation, stop strings. No I/O but reading
a model's files once."""
