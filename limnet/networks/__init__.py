"""The three networks of LIM-Net: tensors in, tensors out, nothing remembered."""
