"""What we are compared with: each as good as its kind can be, and small enough to be read in a minute."""
