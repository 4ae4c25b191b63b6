"""What a target means: classes or quantities. How a column of it becomes Y, and outputs become columns and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from deepnotes import metrics
from deepnotes.errors import DataError
from deepnotes.layers import Dense
from deepnotes.losses import LIBRARY as LOSSES
from deepnotes.network import Network
from deepnotes.preprocessing import Standardizer
from deepnotes.tables import Column

from .output import figure
