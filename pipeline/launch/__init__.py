"""Launching: a study is registered, trained and delivered; or one configuration is trained alone.

Empty: what one command does not need would cost it up to half a second.
"""
