"""The detector: backbone, FPN, RPN, box head, mask head."""
