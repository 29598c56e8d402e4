"""The networks, each a table of named rows, with one module for each source.

The shapes on the right of a table are channels x height x width of the row's output; a test checks
them. Every network takes (N, 3, height, width) floats, RGB, 0-255, with the training mean
subtracted, and returns (N, num_classes) logits; loss and prediction apply the softmax. Rows have
the same names in all networks and in their state dicts.

Sources: "P" is the paper (Krizhevsky, Sutskever, Hinton 2012), with its section; "AN" the source
code of 2012 (computerhistory/AlexNet-Source-Code at 2f8b81f); "CC2" cuda-convnet2 (at 3238bf0);
"CC1" cuda-convnet with its 2011-12 history; "CF" Caffe (BVLC/caffe at 9b89154). The three
networks after AlexNet, which serve to compare, name their own.
"""

NAMES = (
    "alexnet",
    "alexnet_2012",
    "alexnet_half",
    "alexnet_nocomm",
    "alexnet_one_tower",
    "caffe_alexnet",
    "caffenet",
    "one_weird_trick",
    "vgg11",
    "googlenet",
    "resnet18",
    "alexnet_small",
    "vgg11_small",
    "googlenet_small",
    "resnet18_small",
    "cifar10_18",
    "cifar10_13",
    "cifar10_11",
)
"""All names. The command line's help lists them without importing torch."""
