"""The networks: mixers, the one backbone, timm registration, weights in and out."""

from ffvit.network import convnet as convnet
from ffvit.network import named as named  # registers our networks with timm, whichever module is asked for first
