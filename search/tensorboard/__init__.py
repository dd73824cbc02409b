"""What a sweep writes for TensorBoard, with TensorBoard's own writer: no torch, no tensorflow."""
