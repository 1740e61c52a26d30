"""The steps from a checkpoint to a bundle, a module each, and the chain of them."""
