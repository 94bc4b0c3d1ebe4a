"""Synthetic images with exact labels, and masks with defects (section III-B)."""
