"""Explanations: why did the model write this?"""
