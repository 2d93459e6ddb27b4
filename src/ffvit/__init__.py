"""Do you even need attention? Vision backbones trained and compared under one recipe."""
