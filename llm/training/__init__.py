"""What a training step is made of: loss, optimizer, learning rate, guard against NaN/Inf, metrics, progress."""
