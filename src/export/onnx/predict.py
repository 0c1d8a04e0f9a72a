"""Scores images: pip install onnxruntime pillow; python predict.py IMAGE..."""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder = Path(__file__).resolve().parent
how = json.loads((folder / "preprocess.json").read_text())
session = onnxruntime.InferenceSession(folder / how["model"])
size, resample = how["image_size"], Image.Resampling[how["interpolation"].upper()]
for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    background = Image.new("RGBA", image.size, tuple(how["background"]))
    image = Image.alpha_composite(background, image).convert("RGB")
    SQUARE
    [score] = session.run(["score"], {"images": PIXELS})
    print(f"{path}\t{score[0]:.4f}")
