"""The networks: mixers, the one backbone, timm registration, weights in and out."""

from ffvit.models import convnet as convnet
from ffvit.models import registry as registry  # registers our networks with timm, whichever module is asked for first
