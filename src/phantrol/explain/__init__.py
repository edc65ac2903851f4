"""What a trained model does, shown: where traversal happens, and a report to open in a browser."""
