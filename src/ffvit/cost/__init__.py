"""What a network costs: parameters and floating-point operations."""
