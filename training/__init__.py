"""Training and measuring of TVI-Derain: rain synthesis, paired sets, losses and loops."""
