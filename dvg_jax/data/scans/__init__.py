"""Read CT scans of any format and bring them to the cube that networks see."""
