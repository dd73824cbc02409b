"""What one trial does: data, model, training with AMP, pruning, quantization, export, measuring."""
