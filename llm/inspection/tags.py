"""What runs write to TensorBoard beside their metrics, by tag.

TensorBoard sorts groups by name. What is looked at first comes first: `train` and `validation`, then what is within the
model; of texts the samples, then shapes and configuration.
"""

SAMPLES = "1 samples"
SHAPES = "2 shapes"
CONFIGURATION = "3 configuration"
PREFLIGHT = "4 preflight"
LENS = "5 logit lens"
NEIGHBOURS = "6 nearest neighbours"
WARNING = "0 warning"

ATTENTION = "within attention"
EMBEDDINGS = "within embeddings"
GRADIENTS = "within gradients"
HEADS = "within heads"
LABELS = "within labels"
WEIGHTS = "within weights"
