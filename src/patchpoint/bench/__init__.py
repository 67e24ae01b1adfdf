"""The claims about speed and memory, each as a ratio measured in one process."""
