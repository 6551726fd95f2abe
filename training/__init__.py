"""Training and measuring of TVI-Derain: rain synthesis, paired sets, losses, loops and the field's
metrics.
"""
