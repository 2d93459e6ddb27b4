"""Measurements that the docs quote; a package, so that no other one of this name is imported by the tests."""
