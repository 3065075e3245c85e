"""Screen 0: what is wrong and who looks after it; and what operators did."""
