"""Screen 5: why it is not faster. What bounds the steps of a model, where a step's time goes, and step by step."""
