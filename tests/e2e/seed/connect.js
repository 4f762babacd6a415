// 建立WebSocket连接
const websocket = new WebSocket(
    'ws://localhost:8088/scm/websocket/ai/chat?userId=user001&sessionId=session001',
    ['Bearer', jwtToken]  // 通过子协议传递JWT令牌
);

// 连接事件处理
websocket.onopen = function(event) {
    console.log('WebSocket连接已建立');
    
    // 发送心跳消息
    const heartbeat = {
        type: 'HEARTBEAT',
        sessionId: 'session001',
        timestamp: new Date().toISOString()
    };
    websocket.send(JSON.stringify(heartbeat));
};

websocket.onmessage = function(event) {
    const message = JSON.parse(event.data);
    console.log('收到消息:', message);
    
    // 处理不同类型的消息
    switch(message.type) {
        case 'SYSTEM_MESSAGE':
            handleSystemMessage(message);
            break;
        case 'CHAT_STREAM_START':
            handleStreamStart(message);
            break;
        case 'CHAT_STREAM_DATA':
            handleStreamData(message);
            break;
        case 'CHAT_STREAM_END':
            handleStreamEnd(message);
            break;
        case 'HEARTBEAT':
            console.log('心跳响应');
            break;
    }
};

websocket.onerror = function(error) {
    console.error('WebSocket错误:', error);
};

websocket.onclose = function(event) {
    console.log('WebSocket连接已关闭:', event.code, event.reason);
};
