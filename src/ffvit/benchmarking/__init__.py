"""Networks and the engines that run them, measured side by side on this machine."""
