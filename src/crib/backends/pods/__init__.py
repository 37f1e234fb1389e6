"""What a pod has of its own, whichever kind of handler runs its containers."""
