// nanobind's own sources, compiled into the extension: setuptools refuses sources outside the project.
#include <nb_combined.cpp>
