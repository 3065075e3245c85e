"""Screen a: who may use how much, what of it is used, leased to ingresses, and left."""
