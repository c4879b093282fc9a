"""What the Visualizer is made of: colours, coverage masks, contours, text and the canvas.

Everything is NumPy and Pillow. A shape becomes a *coverage*, an (h, w) uint8 array that says
how much of each pixel it covers, and is blended into the canvas within its own box only.
"""
