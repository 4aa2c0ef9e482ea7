/* merge.h - the door of lib/merge: hit lists into one. All of it is public. */
#ifndef VS_MERGE_H
#define VS_MERGE_H

#include <vshard/merge.h>

#include "base/base.h"

#endif
