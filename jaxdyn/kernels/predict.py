"""Training as linear dynamics in function space: what a kernel predicts for gradient flow and gradient descent."""
