"""Policies outside training.

``export`` writes them to ONNX, ``runtime`` drives a robot with those files, ``shipped`` finds the ones that come with
ballbot.  Nothing is imported here: ``runtime`` needs NumPy and onnxruntime alone.
"""
