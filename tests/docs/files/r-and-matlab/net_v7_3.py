"""net-v7.3.mat: net.mat as MATLAB's -v7.3 lays arrays out in HDF5, transposed."""

import h5py
from scipy.io import loadmat

with h5py.File("net-v7.3.mat", "w", userblock_size=512) as file:
    for name, values in loadmat("net.mat").items():
        if not name.startswith("__"):
            file[name] = values.T
            file[name].attrs["MATLAB_class"] = b"double"
