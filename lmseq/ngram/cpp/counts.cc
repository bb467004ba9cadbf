// The library of lmseq/ngram/native.py.
#include "queries.cc"
