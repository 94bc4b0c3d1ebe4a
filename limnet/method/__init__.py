"""LIM-Net's method: prompts, propagation with memory, fusion of rounds, sessions."""
