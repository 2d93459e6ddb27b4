"""What a network costs (parameters, FLOPs, memory, time), counted or measured, and the peak of the hardware."""
