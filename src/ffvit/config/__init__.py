"""What a person asks for: frozen, checked values that read and print as YAML. Nothing here imports torch."""
