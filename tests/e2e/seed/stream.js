function sendStreamingChatRequest() {
    const chatRequest = {
        type: 'CHAT_REQUEST',
        sessionId: 'session001',
        userId: 'user001',
        data: {
            message: '请解释一下供应链管理的核心概念',
            streaming: true,           // 启用流式响应
            model: 'gpt-4',
            provider: 'openai',
            conversationId: 'conv001',
            parentMessageId: null
        },
        timestamp: new Date().toISOString()
    };
    
    websocket.send(JSON.stringify(chatRequest));
}

// 处理流式响应
let streamingContent = '';

function handleStreamStart(message) {
    console.log('流式响应开始:', message.data);
    streamingContent = '';
}

function handleStreamData(message) {
    const chunk = message.data.content;
    streamingContent += chunk;
    
    // 实时更新UI显示
    document.getElementById('chat-content').textContent = streamingContent;
    console.log('流式数据片段:', chunk);
}

function handleStreamEnd(message) {
    console.log('流式响应结束:', message.data);
    console.log('完整内容:', streamingContent);
}
