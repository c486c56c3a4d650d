"""Look at a folder of images before anything is trained: what in it deserves a look.

python -m workbook audit IMAGES [REPORT.html]
"""

from pathlib import Path

from workbook.data.downloads import DATASETS
from workbook.data.folder_layout import require_images
from workbook.data.images import load_from_config
from workbook.display.audit_page import TEMPLATE, write_audit_page
from workbook.evaluation.audit import audit_images
from workbook.models.backbones import LITE
from workbook.settings import read_config
from workbook.support.atomic_files import check_replaceable
from workbook.support.text import printable
from workbook.training.trainer import plain_features

SIZE = 160  # pixels; the thresholds of `evaluation.audit` were chosen at this size
FIRST = TEMPLATE.read_bytes().partition(b"<title>")[0]  # how a page of this command begins


def audit(images: str, report: str | None = None) -> None:
    """Look for near-duplicates, doubtful labels and small classes, by pretrained features.

    Nothing is deleted. The terminal gets the counts, the page shows the images.

    Parameters
    ----------
    images
        A folder with one sub-folder per class, a table of labels, or the name of a dataset.
    report
        Where the page goes; by default `<images>-audit.html` beside the folder or table.

    Raises
    ------
    OSError, ValueError
        Before anything is computed, if the page cannot be written there or would replace a file
        that this command did not write; and as `load_images` for the images.
    """
    source = Path(images).expanduser()
    if images not in DATASETS:
        require_images(source)
    if report is None:
        place = Path.cwd() / images if images in DATASETS else source.resolve()
        name = place.stem if place.is_file() else place.name
        report = str(place.with_name(f"{name}-audit.html"))
    target = Path(report).expanduser()
    if target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{printable(target)}: give the report a name that ends in .html")
    check_replaceable(target, [FIRST], "a page that audit wrote")
    # whatever a user's variables say: the thresholds hold for these features alone
    features_of = {"backbone": LITE, "weights": "imagenet", "size": SIZE, "precision": "float32"}
    config = read_config(dataset=images if images in DATASETS else str(source), **features_of)
    data = load_from_config(config)
    found = audit_images(data, plain_features(config, data))
    write_audit_page(target, found, data)
    print(f"\n{len(data.images):,} images of {len(data.class_names):,} classes: {data.name}")
    print(data.layout)
    counts = [*found.summarize(), ("files and folders left out", len(data.problems))]
    for what, count in counts:
        print(f"{count:6,}  {what}")
    print(f"look at them in {printable(target)}; nothing was changed")
