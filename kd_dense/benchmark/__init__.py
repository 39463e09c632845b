"""What ``kd-dense benchmark`` times, on images of noise and with random weights."""
