"""Where answers are shared: a store per URL scheme, loaded when it is asked for."""

from __future__ import annotations
