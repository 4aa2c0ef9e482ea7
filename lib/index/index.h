/* index.h - the door of lib/index: what other rooms need beyond <vshard/index.h>,
 * which is so far nothing. */
#ifndef VS_INDEX_H
#define VS_INDEX_H

#include "base/base.h"

#include <vshard/index.h>

#endif
