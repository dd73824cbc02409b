"""What one trial does: data, model, training, pruning, quantization, export, measuring."""
