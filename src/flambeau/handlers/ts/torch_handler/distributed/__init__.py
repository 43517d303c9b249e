"""Base classes for handlers of models that are spread over several processes."""
