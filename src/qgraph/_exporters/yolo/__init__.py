"""Detectors of the YOLO line, recognized by the structure of their head."""
