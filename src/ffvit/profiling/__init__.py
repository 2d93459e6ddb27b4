"""What a network costs: parameters, operations, memory and time, counted and measured; and the machine's limits."""
