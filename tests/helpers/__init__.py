"""Small hosts, batches and trainings that many tests share."""
