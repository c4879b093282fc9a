"""Mean and deviation of ImageNet's pixels, 0 to 255."""

constants = dict(
    # In BGR and without deviation, as the MSRA weights expect.
    imagenet_bgr256_mean=[103.530, 116.280, 123.675],
    imagenet_bgr256_std=[1.0, 1.0, 1.0],
    # As torchvision's weights expect.
    imagenet_rgb256_mean=[123.675, 116.280, 103.530],
    imagenet_rgb256_std=[58.395, 57.120, 57.375],
)
