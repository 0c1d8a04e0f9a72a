"""The faces that facenet-pytorch finds in the images that stdin lists: a line of JSON for each.

A line is a list of faces: box (left, top, right, bottom), probability, and five landmarks (x, y).
"""

import json
import sys

from facenet_pytorch import MTCNN
from PIL import Image


def main():
    mtcnn = MTCNN(select_largest=False)
    for line in sys.stdin:
        image = Image.open(line.strip()).convert("RGB")
        # The least face of src/faces/detect.rs; everything else is the default of both.
        mtcnn.min_face_size = max(20.0, min(image.size) / 25)
        boxes, probabilities, landmarks = mtcnn.detect(image, landmarks=True)
        if boxes is None:
            print("[]")
            continue
        faces = zip(boxes.tolist(), probabilities.tolist(), landmarks.tolist())
        print(json.dumps([{"box": box, "probability": p, "landmarks": points} for box, p, points in faces]))


if __name__ == "__main__":
    main()
