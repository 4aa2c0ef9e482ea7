/* route.h - the door of lib/route: who owns a key, and whom to ask. So far all
 * of it is public. */
#ifndef VS_ROUTE_H
#define VS_ROUTE_H

#include <vshard/map.h>

#include "base/base.h"

#endif
