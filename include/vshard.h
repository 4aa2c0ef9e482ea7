/* vshard.h - the whole stable interface of libvshard. Each area header below
 * stands alone; read them in this order. */
#ifndef VSHARD_H
#define VSHARD_H

#include <vshard/base.h>
#include <vshard/attribute.h>
#include <vshard/index.h>
#include <vshard/merge.h>
#include <vshard/map.h>
#include <vshard/wal.h>
#include <vshard/log.h>
#include <vshard/wire.h>
#include <vshard/node.h>

#endif /* VSHARD_H */
